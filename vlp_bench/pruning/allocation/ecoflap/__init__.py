"""ECoFLaP: how sensitive the loss is to a block decides how much of the block stays."""
