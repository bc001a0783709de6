"""Tasks of models of transformers as they are, without fine-tuning: what `vlp-bench evaluate` measures."""
