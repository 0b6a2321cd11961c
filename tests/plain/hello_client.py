"""REQ: says "Hello" so many times and waits for each answer."""

import sys

import zmq


def main(endpoint: str = "tcp://localhost:5555", name: str = "", times: str = "10") -> None:
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(endpoint)
    for number in range(int(times)):
        socket.send_string(f"Hello {name}{number}")
        print(socket.recv_string(), flush=True)


main(*sys.argv[1:])
