<?php
// Submits a workitem with php-amqplib's defaults, and prints its result: client_amqplib.php URL BODY reply|results
require_once "PhpAmqpLib/autoload.php";

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

[, $url, $body, $mode] = $argv;
$address = parse_url($url);
$connection = new AMQPStreamConnection(
    $address["host"], $address["port"], $address["user"], $address["pass"], rawurldecode(substr($address["path"], 1))
);
$channel = $connection->channel();
$channel->queue_declare("taskqueue", false, true, false, false);
if ($mode === "reply") {
    [$queue] = $channel->queue_declare("", false, false, true, true);
} else {
    [$queue] = $channel->queue_declare("results", false, true, false, false);
}
$message = new AMQPMessage($body, $mode === "reply" ? ["reply_to" => $queue] : []);
$channel->basic_publish($message, "", "taskqueue");

for ($tries = 0; $tries < 300; $tries++) {
    $answer = $channel->basic_get($queue, true);
    if ($answer) {
        echo $answer->body, "\n";
        exit(0);
    }
    usleep(100000);
}
fwrite(STDERR, "no result\n");
exit(1);
