"""The programs by which everybody learns ZeroMQ, in plain pyzmq: they know nothing of zerowait, and are never changed
for it. Endpoints are arguments, those of the well-known programs where none is given."""
