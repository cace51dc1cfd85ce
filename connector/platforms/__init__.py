"""The platforms, Klaviyo included: one folder each, a source side and a sink side."""
