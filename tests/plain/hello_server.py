"""REP: answers "Hello …" with "World …", one after another, each after so many seconds of work."""

import sys
import time

import zmq


def main(endpoint: str = "tcp://*:5555", work_s: str = "1") -> None:
    socket = zmq.Context().socket(zmq.REP)
    if "*" in endpoint or "127.0.0.1" in endpoint:
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)
    print("ready", flush=True)
    while True:
        message = socket.recv()
        print(message.decode(), flush=True)
        time.sleep(float(work_s))
        socket.send(message.replace(b"Hello", b"World"))


main(*sys.argv[1:])
