"""GradMix in other people's training code, one module a framework.

Importing this package imports none of them; each module imports its framework and nothing else of
the others: :mod:`~gradmix_ext.integrations.avalanche`, :mod:`~gradmix_ext.integrations.mammoth`,
:mod:`~gradmix_ext.integrations.lightning`, :mod:`~gradmix_ext.integrations.transformers`,
:mod:`~gradmix_ext.integrations.accelerate`, :mod:`~gradmix_ext.integrations.torchvision` and
:mod:`~gradmix_ext.integrations.timm`.
"""
