"""Raw pyzmq: PUSH and PULL over tcp loopback, each message encoded and decoded by itself, nothing acknowledged."""

from __future__ import annotations

import sys
import time

import msgspec
import zmq

from bench.messages import Order, order


def receive(count: int) -> None:
    context = zmq.Context()
    pull, done = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.rcvhwm = 100_000
    print(pull.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    done.connect(sys.stdin.readline().strip())
    decode = msgspec.msgpack.Decoder(Order).decode
    recv = pull.recv
    for _ in range(count):
        decode(recv())
    done.send(b"all")
    done.close()
    pull.close(0)
    context.term()


def send(port: int, count: int, receiver: object) -> float:
    """Seconds from the first push until the receiver has had the last."""
    context = zmq.Context()
    push, done = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.sndhwm = 100_000
    push.connect(f"tcp://127.0.0.1:{port}")
    receiver.stdin.write(f"tcp://127.0.0.1:{done.bind_to_random_port('tcp://127.0.0.1')}\n")  # type: ignore[attr-defined]
    receiver.stdin.flush()  # type: ignore[attr-defined]
    time.sleep(0.3)
    encode, push_send, message = msgspec.msgpack.Encoder().encode, push.send, order()
    began = time.perf_counter()
    for _ in range(count):
        push_send(encode(message))
    done.recv()
    took = time.perf_counter() - began
    push.close(0)
    done.close(0)
    context.term()
    return took


def push_ns(blocks: int = 200) -> float:
    """One encode and send, the median of blocks of 1,000: a PULL takes what is sent."""
    import threading

    context = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.rcvhwm = push.sndhwm = 0
    push.connect(f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}")
    encode, push_send, message = msgspec.msgpack.Encoder().encode, push.send, order()
    times: list[float] = []
    for _ in range(blocks):
        began = time.perf_counter_ns()
        for _ in range(1_000):
            push_send(encode(message))
        times.append((time.perf_counter_ns() - began) / 1_000)
    for socket in (pull, push):
        socket.close(0)
    threading.Thread(target=context.term, daemon=True).start()
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    receive(int(sys.argv[1]))
