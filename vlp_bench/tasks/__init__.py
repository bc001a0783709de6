"""What a pruned model is fine-tuned for and measured by; a task is handed its pruner and knows nothing of pruning."""
