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


def receive_alone(count: int) -> None:
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    print(pull.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    took_ns: list[int] = []
    for _ in range(count):
        message = pull.recv()
        took_ns.append(time.time_ns() - int(msgspec.msgpack.decode(message)))
    print(" ".join(map(str, took_ns)), flush=True)
    pull.close(0)
    context.term()


def send_alone(port: int, count: int) -> None:
    """100 a second, the time in the payload."""
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{port}")
    time.sleep(0.3)
    at = time.perf_counter()
    for _ in range(count):
        push.send(msgspec.msgpack.encode(time.time_ns()))
        at += 0.01
        time.sleep(max(0.0, at - time.perf_counter()))
    push.close(1_000)
    context.term()


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
    if sys.argv[1] == "alone":
        receive_alone(int(sys.argv[2]))
    else:
        receive(int(sys.argv[1]))
