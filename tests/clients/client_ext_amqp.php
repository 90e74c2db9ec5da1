<?php
// Submits a workitem with ext-amqp's defaults, and prints its result: client_ext_amqp.php URL BODY reply|results
[, $url, $body, $mode] = $argv;
$address = parse_url($url);
$connection = new AMQPConnection([
    "host" => $address["host"], "port" => $address["port"], "login" => $address["user"],
    "password" => $address["pass"], "vhost" => rawurldecode(substr($address["path"], 1)),
]);
$connection->connect();
$channel = new AMQPChannel($connection);
$taskqueue = new AMQPQueue($channel);
$taskqueue->setName("taskqueue");
$taskqueue->setFlags(AMQP_DURABLE);
$taskqueue->declareQueue();
$queue = new AMQPQueue($channel);
if ($mode === "reply") {
    $queue->setFlags(AMQP_EXCLUSIVE);
} else {
    $queue->setName("results");
    $queue->setFlags(AMQP_DURABLE);
}
$queue->declareQueue();

$exchange = new AMQPExchange($channel);
$exchange->publish($body, "taskqueue", AMQP_NOPARAM, $mode === "reply" ? ["reply_to" => $queue->getName()] : []);

for ($tries = 0; $tries < 300; $tries++) {
    $answer = $queue->get(AMQP_AUTOACK);
    if ($answer) {
        echo $answer->getBody(), "\n";
        exit(0);
    }
    usleep(100000);
}
fwrite(STDERR, "no result\n");
exit(1);
