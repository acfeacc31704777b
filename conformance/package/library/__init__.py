"""Operations as ops of torch.library: compiled calls, their gradients, and calls without a meaning."""
