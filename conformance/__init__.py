"""Judges implementations of fused normalisation operations: ours, a vendor's, yours.

An adapter is written with the three names below; ``conform run my_adapter.py`` judges it.
"""

from conformance.adapter import Adapter, Declined
from conformance.oracle.contract import Contract

__all__ = ["Adapter", "Contract", "Declined"]
