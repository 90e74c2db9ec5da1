# Submits a workitem with Bunny's defaults, and prints its result: client_bunny.rb URL BODY reply|results
require "bunny"

url, body, mode = ARGV
connection = Bunny.new(url).start
channel = connection.create_channel
queue = mode == "reply" ? channel.queue("", exclusive: true) : channel.queue("results", durable: true)
channel.queue("taskqueue", durable: true)

options = { routing_key: "taskqueue" }
options[:reply_to] = queue.name if mode == "reply"
channel.default_exchange.publish(body, options)

answer = nil
300.times do
  _, _, answer = queue.pop
  break if answer
  sleep 0.1
end
abort "no result" unless answer
puts answer
connection.close
