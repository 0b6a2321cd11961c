"""PULL: binds, waits for the start of a batch, and then for so many results."""

import sys

import zmq


def main(endpoint: str = "tcp://*:5558", results: str = "100") -> None:
    socket = zmq.Context().socket(zmq.PULL)
    socket.bind(endpoint)
    print("ready", flush=True)
    print("start", socket.recv_string(), flush=True)
    for _ in range(int(results)):
        socket.recv()
    print("all", results, flush=True)


main(*sys.argv[1:])
