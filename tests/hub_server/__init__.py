"""A small Hub for tests: the real clients publish to it and read from it, over HTTP on this machine."""

from .faults import STEPS, Cut, Delay, FlippedBit, LostReply, Status
from .server import HubServer

__all__ = ["STEPS", "Cut", "Delay", "FlippedBit", "HubServer", "LostReply", "Status"]
