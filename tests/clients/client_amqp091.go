// Submits a workitem with amqp091-go's defaults, and prints its result: client_amqp091 URL BODY reply|results
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	url, body, mode := os.Args[1], os.Args[2], os.Args[3]
	connection, err := amqp.Dial(url)
	must(err)
	defer connection.Close()
	channel, err := connection.Channel()
	must(err)
	_, err = channel.QueueDeclare("taskqueue", true, false, false, false, nil)
	must(err)
	message := amqp.Publishing{Body: []byte(body)}
	var queue amqp.Queue
	if mode == "reply" {
		queue, err = channel.QueueDeclare("", false, false, true, false, nil)
		message.ReplyTo = queue.Name
	} else {
		queue, err = channel.QueueDeclare("results", true, false, false, false, nil)
	}
	must(err)
	must(channel.PublishWithContext(context.Background(), "", "taskqueue", false, false, message))
	answers, err := channel.Consume(queue.Name, "", true, false, false, false, nil)
	must(err)
	select {
	case answer := <-answers:
		fmt.Println(string(answer.Body))
	case <-time.After(30 * time.Second):
		log.Fatal("no result")
	}
}
