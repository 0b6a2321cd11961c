"""Python services hand work to one another without waiting and without a broker, and every message is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerowait.app import App
    from zerowait.channels import PushChannel, RequestChannel, StreamChannel
    from zerowait.client import Client
    from zerowait.context import Context
    from zerowait.errors import (
        Dead,
        Expired,
        NoResponder,
        PeerLost,
        QueueFull,
        Reject,
        RemoteError,
        RetryLater,
        ZerowaitError,
    )
    from zerowait.pending import Pending
    from zerowait.plain import Plain
    from zerowait.receipts import Receipt
    from zerowait.replies import Reply
    from zerowait.retry import Retry
    from zerowait.settings import Settings
    from zerowait.subscriptions import Event
    from zerowait.topic import Topic

__version__ = "0.1.0"

__all__ = [
    "App",
    "Client",
    "Context",
    "Dead",
    "Event",
    "Expired",
    "NoResponder",
    "PeerLost",
    "Pending",
    "Plain",
    "PushChannel",
    "QueueFull",
    "Receipt",
    "Reject",
    "RemoteError",
    "Reply",
    "RequestChannel",
    "Retry",
    "RetryLater",
    "Settings",
    "StreamChannel",
    "Topic",
    "ZerowaitError",
    "__version__",
]

# Each name is imported when it is first asked for: a module of contracts needs channels and no app, and a command that
# only looks needs neither.
_HOMES = {
    "App": "app",
    "PushChannel": "channels",
    "RequestChannel": "channels",
    "StreamChannel": "channels",
    "Client": "client",
    "Context": "context",
    "Dead": "errors",
    "Expired": "errors",
    "NoResponder": "errors",
    "PeerLost": "errors",
    "QueueFull": "errors",
    "Reject": "errors",
    "RemoteError": "errors",
    "RetryLater": "errors",
    "ZerowaitError": "errors",
    "Pending": "pending",
    "Receipt": "receipts",
    "Reply": "replies",
    "Plain": "plain",
    "Retry": "retry",
    "Settings": "settings",
    "Event": "subscriptions",
    "Topic": "topic",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'zerowait' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"zerowait.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
