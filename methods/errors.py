"""Errors of a conversion."""


class ConversionError(ValueError):
    """The network cannot be converted faithfully; the message names the layer and the way out."""
