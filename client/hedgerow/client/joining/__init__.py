"""Turning this machine into a device: a stream to the coordinator, and a worker process that trains.

The process that keeps the stream is light: it imports neither torch nor flwr, and never reads what is trained.

    agent      connects, again and again, until there is a reason not to
    session    one connection: hello, heartbeats, requests down, replies up
    desk       the requests and replies, whether or not a connection stands
    worker     the process that trains
    store      what survives a kill, in a folder
    progress   what the user is told
"""
