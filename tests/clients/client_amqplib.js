// Submits a workitem with amqplib's defaults, and prints its result: client_amqplib.js URL BODY reply|results
const amqp = require("amqplib");

async function main(url, body, mode) {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  await channel.assertQueue("taskqueue");
  const { queue } = mode === "reply"
    ? await channel.assertQueue("", { exclusive: true })
    : await channel.assertQueue("results");
  channel.sendToQueue("taskqueue", Buffer.from(body), mode === "reply" ? { replyTo: queue } : {});
  const late = setTimeout(() => { console.error("no result"); process.exit(1); }, 30000);
  const answer = await new Promise((found) => channel.consume(queue, found, { noAck: true }));
  clearTimeout(late);
  console.log(answer.content.toString());
  await connection.close();
}

main(...process.argv.slice(2)).catch((error) => { console.error(error); process.exit(1); });
