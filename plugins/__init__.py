"""What a provider is: plugins describe HTTP, and perform none."""
