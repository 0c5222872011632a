"""The torture of the meter: real processes that are really killed and frozen, judged by the provider's own books."""
