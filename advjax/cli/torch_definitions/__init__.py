"""The networks in plain PyTorch, as `experiments.export` writes them beside the weights.

Each file stands alone once `base.py` is put in front of it. Names of tensors are those of `advjax.models.torch_names`,
constructor arguments those of the linen module.
"""
