"""The catalogue's rows from torch.optim, and Muon, which is made of torch's own."""

from __future__ import annotations

from lightning_adam.optimizers.spec import OptimizerSpec

ADAM, ADAMW = "Kingma & Ba 2014, arXiv:1412.6980", "Loshchilov & Hutter 2019, arXiv:1711.05101"
OURS = "lightning_adam.optimizers."

TORCH = (
    OptimizerSpec("adam", "torch.optim.Adam", "weight decay enters the gradient", "m, v", 8, 1e-3, ADAM, 0.0, fused=True),
    OptimizerSpec("adamw", "torch.optim.AdamW", "Adam with decoupled decay", "m, v", 8, 1e-3, ADAMW, fused=True),
    OptimizerSpec(
        "amsgrad",
        "torch.optim.AdamW",
        "divides by the largest v so far",
        "m, v, max v",
        12,
        1e-3,
        "Reddi et al. 2018, arXiv:1904.09237",
        fixed={"amsgrad": True},
        fused=True,
    ),
    OptimizerSpec(
        "nadam",
        "torch.optim.NAdam",
        "Adam with Nesterov momentum",
        "m, v",
        8,
        2e-3,
        "Dozat 2016, ICLR workshop",
        fixed={"decoupled_weight_decay": True},
    ),
    OptimizerSpec(
        "radam",
        "torch.optim.RAdam",
        "rectifies the first steps' variance",
        "m, v",
        8,
        1e-3,
        "Liu et al. 2019, arXiv:1908.03265",
        fixed={"decoupled_weight_decay": True},
    ),
    OptimizerSpec("adamax", "torch.optim.Adamax", "infinity norm for v", "m, max |g|", 8, 2e-3, ADAM, 0.0),
    OptimizerSpec(
        "adafactor",
        "torch.optim.Adafactor",
        "factored v, no m",
        "row v, column v",
        0.03,
        1e-2,
        "Shazeer & Stern 2018, arXiv:1804.04235",
        betas=(),
    ),
    OptimizerSpec("rmsprop", "torch.optim.RMSprop", "v without m", "v", 4, 1e-3, "Hinton 2012, lecture 6e", 0.0, betas=()),
    OptimizerSpec(
        "sgd",
        "torch.optim.SGD",
        "Nesterov momentum, no v",
        "momentum",
        4,
        0.1,
        "Sutskever et al. 2013, ICML",
        0.0,
        fixed={"momentum": 0.9, "nesterov": True},
        fused=True,
        betas=(),
    ),
    OptimizerSpec(
        "lbfgs",
        "torch.optim.LBFGS",
        "quasi-Newton; runs the batch several times per step",
        "history of 10 steps and gradients",
        88,
        1.0,
        "Liu & Nocedal 1989, Math. Programming 45",
        0.0,
        fixed={"max_iter": 4, "history_size": 10, "line_search_fn": "strong_wolfe"},
        needs=("closure",),
        betas=(),
    ),
    OptimizerSpec(
        "muon",
        OURS + "muon.MuonWithAdamW",
        "Muon on hidden matrices, AdamW on the rest",
        "momentum; m, v",
        4,
        1e-3,
        "Jordan et al. 2024, kellerjordan.github.io/posts/muon",
        0.1,
        needs=("matrices",),
        betas=(0.9, 0.95),
    ),
)
