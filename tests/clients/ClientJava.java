// Submits a workitem with the Java client's defaults, and prints its result: ClientJava URL BODY reply|results
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.GetResponse;

public class ClientJava {
    public static void main(String[] arguments) throws Exception {
        String url = arguments[0], body = arguments[1], mode = arguments[2];
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(url);
        Connection connection = factory.newConnection();
        Channel channel = connection.createChannel();
        channel.queueDeclare("taskqueue", true, false, false, null);
        boolean wantsReply = mode.equals("reply");
        String queue = wantsReply
            ? channel.queueDeclare().getQueue()
            : channel.queueDeclare("results", true, false, false, null).getQueue();
        // Without a reply, no properties at all; MessageProperties has constants for those who want some.
        BasicProperties properties = wantsReply ? new BasicProperties.Builder().replyTo(queue).build() : null;
        channel.basicPublish("", "taskqueue", properties, body.getBytes("UTF-8"));
        for (int tries = 0; tries < 300; tries++) {
            GetResponse answer = channel.basicGet(queue, true);
            if (answer != null) {
                System.out.println(new String(answer.getBody(), "UTF-8"));
                connection.close();
                return;
            }
            Thread.sleep(100);
        }
        System.err.println("no result");
        System.exit(1);
    }
}
