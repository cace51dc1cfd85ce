"""What a Klaviyo flow sends: webhooks for a person to paste, made by pure functions."""

from __future__ import annotations

from connector.flows.builder import build
from connector.flows.direct import build_direct
from connector.flows.presets import PRESETS, Preset
from connector.flows.step import Place, Step, Trigger, UseCase, Webhook
from connector.flows.templates import Unfit

__all__ = [
    "PRESETS",
    "Place",
    "Preset",
    "Step",
    "Trigger",
    "Unfit",
    "UseCase",
    "Webhook",
    "build",
    "build_direct",
]
