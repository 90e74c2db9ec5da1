#!/bin/sh
# Submits a workitem with the defaults of amqp-tools, and prints its result: client_amqp_tools.sh URL BODY reply|results
set -eu
url=$1 body=$2 mode=$3
queue=results
[ "$mode" = results ] || queue=answers-$$
for each in taskqueue "$queue"; do
    amqp-declare-queue -u "$url" -d -q "$each" >/dev/null
done
if [ "$mode" = reply ]; then
    amqp-publish -u "$url" -r taskqueue -t "$queue" -b "$body"
else
    amqp-publish -u "$url" -r taskqueue -b "$body"
fi
timeout 30 amqp-consume -u "$url" -q "$queue" -c 1 cat
