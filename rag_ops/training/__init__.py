"""Fine-tuning through the marginal loss."""
