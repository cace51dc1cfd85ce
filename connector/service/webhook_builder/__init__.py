"""Builds webhooks to paste into Klaviyo flows. Pure functions."""

from __future__ import annotations

from connector.service.webhook_builder.builder import build
from connector.service.webhook_builder.direct import build_direct
from connector.service.webhook_builder.presets import PRESETS, Preset, step_of
from connector.service.webhook_builder.step import FlowTarget, Step, Trigger, UseCase, Webhook
from connector.service.webhook_builder.templates import InvalidStep

__all__ = [
    "PRESETS",
    "FlowTarget",
    "InvalidStep",
    "Preset",
    "Step",
    "Trigger",
    "UseCase",
    "Webhook",
    "build",
    "build_direct",
    "step_of",
]
