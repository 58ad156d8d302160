"""Estonian text: how it is compared and how an answer is read out of a response."""
