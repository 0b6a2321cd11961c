"""REQ that does not wait for ever: after so long it throws its socket away, and asks again with a new one."""

import sys

import zmq


def main(endpoint: str = "tcp://localhost:5555", times: str = "10", timeout_ms: str = "500") -> None:
    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.connect(endpoint)
    for number in range(int(times)):
        socket.send_string(f"Hello {number}")
        while not socket.poll(int(timeout_ms)) & zmq.POLLIN:
            print("again", flush=True)
            socket.setsockopt(zmq.LINGER, 0)
            socket.close()
            socket = context.socket(zmq.REQ)
            socket.connect(endpoint)
            socket.send_string(f"Hello {number}")
        print(socket.recv_string(), flush=True)


main(*sys.argv[1:])
