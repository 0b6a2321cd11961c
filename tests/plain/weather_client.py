"""SUB: prints so many updates of one zip code."""

import sys

import zmq


def main(endpoint: str = "tcp://localhost:5556", wanted: str = "10001 ", times: str = "5") -> None:
    socket = zmq.Context().socket(zmq.SUB)
    socket.connect(endpoint)
    socket.setsockopt_string(zmq.SUBSCRIBE, wanted)
    for _ in range(int(times)):
        print(" | ".join(part.decode() for part in socket.recv_multipart()), flush=True)


main(*sys.argv[1:])
