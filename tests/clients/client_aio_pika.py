"""Submits a workitem with aio-pika's defaults, and prints its result: URL BODY reply|results."""

import asyncio
import sys

import aio_pika


async def main(url: str, body: str, mode: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("taskqueue", durable=True)
        if mode == "reply":
            queue = await channel.declare_queue(exclusive=True)
            message = aio_pika.Message(body.encode(), reply_to=queue.name)
        else:
            queue = await channel.declare_queue("results", durable=True)
            message = aio_pika.Message(body.encode())
        await channel.default_exchange.publish(message, routing_key="taskqueue")
        async with asyncio.timeout(30), queue.iterator(no_ack=True) as answers:
            async for answer in answers:
                print(answer.body.decode())
                return


asyncio.run(main(*sys.argv[1:]))
