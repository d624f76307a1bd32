"""The one page to edit: the mode, the seed, the folders, and what every experiment costs.

    QUICK    seconds an experiment; embedded data will do; to see that everything works
    HYBRID   minutes a section; real data, several seeds of what is short; the numbers to learn from
    FULL     up to hours; the numbers to report

The command line wins over this page: `python main.py --mode hybrid --seed 7 xor`.
"""

QUICK_MODE = True
HYBRID_MODE = False  # both False: FULL

SEED = 0
RESULTS_DIR = "results"
DATA_DIR = "data"  # in this folder; the environment variable COURSE_DATA_DIR wins
THREADS = None  # None: every core

MODES = ("quick", "hybrid", "full")


def mode() -> str:
    """The mode that the two switches above select."""
    if QUICK_MODE and HYBRID_MODE:
        raise ValueError(
            "config.py sets both QUICK_MODE and HYBRID_MODE: set one of them, or neither for FULL"
        )
    return "quick" if QUICK_MODE else "hybrid" if HYBRID_MODE else "full"


# For every section its experiments, in the order in which they run. A setting is one value
# for all modes, or three in round brackets: (QUICK, HYBRID, FULL). A list of values is
# written in square brackets. `seconds` is what to expect on two cores (measured; for FULL
# estimated from the number of steps). All the other settings can be changed for one run:
# `python main.py xor --epochs 50 --set hidden=4`.
# fmt: off
SCENES = {  # of all experiments on detection, so that what one has trained another can use
    "width": (12, 32, 32), "scenes": (300, 5000, 20000), "epochs": (16, 8, 10),
    "validated": (30, 100, 200), "tested": (60, 500, 1000), "batch_size": (16, 32, 32),
    "lr": (0.006, 0.003, 0.003), "side": 96,
    "folder": "",  # of annotated pictures, to take instead of scenes of digits
}
DIGITS = {  # of all experiments on GANs for images: what they learn, and who judges them
    "samples": (1797, 60000, 60000), "held_out": (250, 1000, 5000), "judged": (250, 2000, 5000),
    "judge_epochs": (10, 3, 10), "judge_batch_size": (32, 64, 64),
}
GANS = {  # of those in PyTorch, so that what one has trained another can use
    **DIGITS, "steps": (120, 1250, 12000), "looks": (3, 5, 15), "batch_size": (32, 64, 64),
    "noise": 32, "widths": ([16, 8], [32, 16], [64, 32]), "lr": (0.004, 0.002, 0.001),
    "mean": (0.9, 0.995, 0.999),
}
TEXT = {  # of all experiments on the language model of `gpt`, for the same reason
    "text": "",  # a file of one's own, to take instead of Shakespeare
    "tokens": "characters", "vocabulary": 512,  # "bytes": pairs of them, so many tokens
    "layers": (2, 4, 6), "heads": (2, 4, 6), "width": (64, 128, 192), "context": (32, 64, 128),
    "dropout": (0.0, 0.0, 0.1), "batch_size": (16, 16, 32), "lr": (0.005, 0.003, 0.002),
    "epochs": (4, 10, 20), "steps": (50, 200, 200),  # of an epoch
    "layers_on_gpu": (2, 6, 6), "heads_on_gpu": (2, 6, 6), "width_on_gpu": (64, 384, 384),
    "context_on_gpu": (32, 256, 256), "dropout_on_gpu": (0.0, 0.2, 0.2),
    "batch_size_on_gpu": (16, 64, 64), "lr_on_gpu": (0.005, 0.001, 0.001),
    "epochs_on_gpu": (4, 10, 20), "steps_on_gpu": (50, 250, 250),
}
BUDGETS: dict[int, dict[str, dict]] = {
    1: {
        "activation_functions": {
            "seconds": (1, 1, 1),
            "seeds": 10, "samples": 10000,
        },
        "xor": {
            "seconds": (1, 5, 6),
            "seeds": (5, 20, 20), "epochs": (400, 600, 600), "hidden": [2, 4, 8],
            "batch_size": 4, "lr": 0.5,
        },
        "decision_boundaries": {
            "seconds": (3, 11, 80),
            "seeds": (2, 3, 20), "epochs": (60, 120, 200), "samples": 400,
            "shapes": (["0", "4", "32-32"], ["0", "4", "32", "32-32"], ["0", "4", "32", "32-32"]),
            "batch_size": 32, "lr": 0.3,
        },
        "universal_approximation": {
            "seconds": (4, 16, 350),
            "seeds": (2, 3, 10), "epochs": (80, 100, 500), "samples": 576,
            "widths": ([2, 8, 64], [2, 4, 8, 16, 32, 64], [2, 4, 8, 16, 32, 64]),
            "targets": (
                ["sines", "chirp", "step"],
                ["sines", "bump", "chirp", "abs", "step"],
                ["sines", "bump", "chirp", "abs", "step"],
            ),
            "targets_2d": (["bumps"], ["bumps"], ["bumps", "checker", "ripple"]),
            "batch_size": 32, "lr": 1.6,
        },
        "regression": {
            "seconds": (3, 12, 100),
            "seeds": (4, 4, 20), "epochs": (100, 300, 300),
            "samples": ([20, 80, 320], [20, 40, 80, 160, 320], [20, 80, 320, 1280]),
            "noise": 0.2, "hidden": 32, "batch_size": 32, "lr": 0.05,
        },
        "initialization": {
            "seconds": (3, 11, 120),
            "seeds": (2, 3, 5), "steps": (40, 80, 500), "depth": (10, 10, 20),
            "width": (64, 128, 256), "samples": (1500, 10000, 60000),
            "batch_size": (64, 128, 128), "lr": 0.02,
        },
        "activation_comparison": {
            "seconds": (3, 62, 900),
            "seeds": (2, 3, 10), "epochs": (10, 4, 20), "samples": (1500, 60000, 60000),
            "batch_size": (128, 64, 64),
            "lr": ([4.0, 0.5, 0.2, 0.2, 0.2], [4.0, 0.5, 0.25, 0.25, 0.25],
                   [4.0, 0.5, 0.25, 0.25, 0.25]),
        },
        "loss_comparison": {
            "seconds": (2, 29, 400),
            "seeds": (2, 3, 10), "epochs": (10, 3, 20), "samples": (1500, 60000, 60000),
            "batch_size": (128, 256, 256),
            "lr": ([0.2, 0.2, 0.05, 1.0], [0.5, 0.5, 0.2, 4.0], [0.5, 0.5, 0.2, 4.0]),
        },
        "sanity_checks": {
            "seconds": (2, 8, 30),
            "seeds": (3, 5, 10), "epochs": (5, 2, 5), "samples": (1500, 20000, 60000),
            "steps": 200, "batch_size": 128, "lr": 0.05,
        },
        "fashion_mlp": {
            "seconds": (2, 12, 200),
            "seeds": (2, 3, 10), "epochs": (8, 4, 25), "samples": (4000, 60000, 60000),
            "batch_size": 128, "lr": 0.2,
        },
    },
    2: {
        "gradient_checking": {
            "seconds": (5, 10, 40),
            "seeds": (1, 2, 10), "directions": (5, 20, 50),
        },
        "optimizer_trajectories": {
            "seconds": (7, 8, 14),
            "seeds": (4, 10, 30), "steps": (300, 300, 1000),
        },
        "optimizer_comparison": {
            "seconds": (8, 140, 800),
            "seeds": (2, 3, 10), "epochs": (8, 5, 15), "samples": (1500, 60000, 60000),
            "batch_size": (64, 512, 512), "checks": (1, 4, 4),
            "hidden": ([64, 32], [256, 128], [256, 128]),
            "tuning_samples": (1350, 54000, 54000), "tuning_epochs": (2, 1, 3),
            "toy_epochs": (15, 40, 100),
        },
        "lr_sensitivity": {
            "seconds": (2, 42, 450),
            "seeds": (1, 3, 5), "epochs": (2, 2, 4), "samples": (1000, 6000, 20000),
            "per_decade": (1, 3, 4), "batch_size": 64, "width": 64,
        },
        "lr_schedules": {
            "seconds": (2, 25, 900),
            "seeds": (2, 3, 10), "epochs": (3, 3, 10), "samples": (1500, 15000, 60000),
            "peaks": ([0.01, 0.03, 0.1], [0.02, 0.05, 0.1, 0.2], [0.01, 0.02, 0.05, 0.1, 0.2]),
            "checks": (1, 2, 2),
            "batch_size": 128, "width": 64,
        },
        "gradient_flow": {
            "seconds": (2, 8, 60),
            "seeds": (2, 5, 10), "depths": ([5, 20], [5, 10, 20], [5, 10, 20, 50]),
            "width": (64, 128, 256), "samples": (1500, 10000, 60000),
        },
        "batchnorm_study": {
            "seconds": (4, 20, 1000),
            "seeds": (2, 3, 5), "epochs": (4, 3, 15), "samples": (1500, 10000, 60000),
            "depth": 3, "width": 100, "batch_size": (64, 128, 128),
            "lr": ([0.03, 0.3, 3.0], [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
                   [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
            "batch_sizes": ([4, 32, 128], [4, 16, 64, 256], [2, 4, 8, 16, 64, 256]),
            "common_lr": 0.03,
        },
        "dropout_study": {
            "seconds": (3, 18, 1200),
            "seeds": (2, 3, 10), "epochs": (20, 30, 100), "samples": (1500, 10000, 10000),
            "images": (200, 1000, 1000), "width": (128, 128, 512), "batch_size": (50, 100, 100),
            "wrong": [0.0, 0.2],
            "rates": ([0.0, 0.4, 0.8], [0.0, 0.2, 0.4, 0.6, 0.8], [0.0, 0.1, 0.2, 0.4, 0.6, 0.8]),
            "lr": 0.002,
        },
        "loss_landscape": {
            "seconds": (3, 12, 300),
            "seeds": (2, 3, 5), "epochs": (6, 4, 15), "samples": (1500, 10000, 60000),
            "depth": (4, 4, 8), "width": (32, 64, 128), "batch_size": (64, 128, 128), "lr": 0.1,
            "points": (8, 12, 25), "images": (256, 512, 2048),
        },
    },
    3: {
        "cnn_gradient_checking": {
            "seconds": (8, 13, 40),
            "seeds": (1, 2, 10),
        },
        "convolution_speed": {
            "seconds": (4, 15, 100),
            "rounds": (3, 9, 31), "sizes": ([4, 8, 16], [4, 8, 16, 32, 64],
                                             [4, 8, 16, 32, 64, 128]),
            "loops_up_to": (8, 16, 32), "images": (8, 32, 32), "block_ms": (0.5, 3.0, 6.0),
        },
        "mnist_cnn": {
            "seconds": (5, 165, 420),
            "seeds": 1, "epochs": (12, 12, 16), "samples": (3000, 60000, 60000),
            "filters": ([16, 32], [32, 64], [16, 32, 64]), "convolutions": (1, 1, 2),
            "batchnorm": (False, False, True), "hidden": 128, "dropout": (0.25, 0.3, 0.4),
            "batch_size": (32, 128, 128), "lr": (0.003, 0.004, 0.004),
            "shift": 2,
            "turn": (0.0, 0.0, 10.0), "stretch": (0.0, 0.0, 0.1),
        },
        "filters_and_feature_maps": {
            "seconds": (2, 7, 400),
            "seeds": (2, 3, 10), "epochs": (8, 2, 10), "samples": (1500, 20000, 60000),
            "filters": [8, 16], "batch_size": (32, 64, 64), "lr": 0.005,
            "looked_at": (100, 300, 1000),
        },
        "receptive_field": {
            "seconds": (5, 19, 600),
            "seeds": (2, 3, 10), "epochs": (4, 3, 10), "samples": (1500, 6000, 60000),
            "depth": 6, "steps": (60, 200, 400), "batch_size": (16, 64, 64), "lr": 0.01,
            "distances": ([3, 5, 7], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]),
        },
        "pooling_comparison": {
            "seconds": (3, 39, 900),
            "seeds": (2, 5, 10), "epochs": (5, 3, 10), "samples": (1500, 20000, 60000),
            "filters": [8, 16], "batch_size": (64, 128, 128), "images": (300, 1000, 10000),
            "lr": [0.02],
        },
        "batchnorm_cnn": {
            "seconds": (4, 75, 2800),
            "seeds": (2, 3, 3), "epochs": (3, 3, 10), "samples": (1000, 3000, 20000),
            "filters": ([8, 16], [16, 32], [16, 32]), "convolutions": (2, 3, 3),
            "batch_size": (32, 64, 128),
            "lr": ([0.1, 3.0], [0.1, 0.3, 1.0, 3.0],
                   [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
        },
        "cifar10_cnn": {
            "seconds": (6, 277, 3000),
            "models": (["three_layer_cnn", "conv_pool_3"], ["three_layer_cnn", "conv_pool_3"],
                       ["three_layer_cnn", "conv_pool_3", "numpy_resnet"]),
            "epochs": ([1, 3], [3, 7], [10, 20, 20]), "samples": (1500, 50000, 50000),
            "lr": ([0.001, 0.004], [0.001, 0.004], [0.001, 0.004, 0.004]),
            "batch_size": (32, 128, 128), "shift": (1, 2, 2),
        },
        "cifar100_mlp_vs_cnn": {
            "seconds": (4, 65, 2300),
            "seeds": (2, 3, 5), "epochs": (3, 3, 15), "samples": (1200, 20000, 50000),
            "filters": ([8, 16], [16, 32], [32, 64]), "batch_size": (50, 100, 100),
            "lr": ([0.003, 0.01], [0.003, 0.01], [0.003, 0.005]),
        },
    },
    4: {
        "resnet18_cifar10": {
            "seconds": (10, 670, 20000),
            "recipes": (["sgd"], ["sgd"], ["sgd", "adam"]), "width": (16, 64, 64),
            "epochs": (6, 5, 48), "epochs_on_gpu": (6, 15, 60), "samples": (1500, 32000, 50000),
            "lr": ([0.1], [0.1], [0.1, 0.001]), "batch_size": (32, 128, 128),
            "crop": (1, 0, 4),  # pixels; a few epochs are too few to need it
            "window": 24, "hole": (0, 0, 8),  # pixels a side
            "window_epochs": (0, 4, 44),  # so many at first
            "cutmix": 0.0,  # chance that windows are blended in pairs
        },
        "resnet_vs_plain": {
            "seconds": (7, 190, 5800),
            "depths": ([8, 20], [20, 56], [20, 56]), "seeds": (2, 1, 2), "epochs": (3, 10, 20),
            "epochs_on_gpu": (3, 6, 60), "samples": (300, 8000, 50000), "batch_size": (32, 32, 64),
            "lr": (0.02, 0.05, 0.1), "looked_at": (8, 32, 64),
            "side": (32, 16, 16),  # pixels: smaller images allow for more steps
        },
        "transfer_learning": {
            "seconds": (5, 370, 6000),
            "images": ([5, 20], [5, 10, 50], [5, 10, 50, 250, 1000, 5000]), "seeds": (2, 5, 3),
            "steps": ([10, 20], [100, 100, 300], [100, 100, 300, 800, 1500, 3000]),
            "width": (8, 16, 32), "epochs": (2, 4, 10), "epochs_on_gpu": (2, 20, 60),
            "samples": (400, 30000, 50000), "tested": (200, 2000, 10000),
            "batch_size": (32, 64, 64), "lr": [0.1, 0.05, 0.1], "body_scale": 0.5, "decay": 30.0,
            "resize": ([64], [64, 224], [64, 224]),  # on a CPU and on a GPU, for ImageNet's weights
        },
        "augmentation_study": {
            "seconds": (5, 300, 5500),
            "seeds": (2, 3, 3), "epochs": (1, 5, 14),
            "samples": ([100, 300], [500, 4000], [1000, 50000]),
            "width": (8, 32, 32), "batch_size": (32, 64, 128), "lr": 0.1,
        },
        "cifar100_architectures": {
            "seconds": (7, 110, 3600),
            "seeds": 2, "epochs": (3, 5, 5), "epochs_on_gpu": (3, 5, 40), "width": (8, 32, 64),
            "samples": (1000, 10000, 50000), "batch_size": (32, 64, 128), "lr": [0.02, 0.05, 0.1],
        },
        "data_parallel": {
            "seconds": (12, 60, 330),
            "processes": [1, 2], "seeds": (2, 2, 3), "epochs": (3, 2, 4), "depth": 8,
            "samples": (400, 6000, 12000), "test_samples": (300, 2000, 10000),
            "batch_size": (32, 64, 128), "lr": 0.1,
        },
        "sliding_window_detection": {"seconds": (11, 76, 350), **SCENES},
        "faster_rcnn_detection": {"seconds": (10, 88, 410), **SCENES},
        "yolo_detection": {"seconds": (5, 48, 240), **SCENES},
        "region_proposals": {
            "seconds": (2, 12, 30), **SCENES, "counts": [1, 2, 5, 10, 20, 50, 100, 200, 500],
        },
        "detector_comparison": {
            "seconds": (3, 190, 900), **SCENES,
            "detectors": (
                ["sliding_window", "faster_rcnn", "yolo"],
                ["sliding_window", "faster_rcnn", "yolo", "torchvision"],
                ["sliding_window", "faster_rcnn", "yolo", "torchvision"],
            ),
        },
        "numpy_gan": {
            "seconds": (6, 105, 1100), **DIGITS,
            "steps": (150, 12000, 60000), "point_steps": (300, 6000, 30000),
            "checks": (6, 12, 30), "batch_size": 64, "lr": 0.0005,
        },
        "gan_2d": {
            "seconds": (5, 175, 1200),
            "mixture": "grid", "seeds": (1, 1, 3), "steps": (100, 4500, 10000),
            "checks": (5, 25, 50), "hidden": ([64, 64], [128, 128, 128], [128, 128, 128]),
            "batch_size": (64, 128, 128), "lr": 0.004, "mean": (0.99, 0.998, 0.998),
        },
        "mode_collapse": {
            "seconds": (5, 50, 300),
            "mixture": "ring", "seeds": (2, 3, 5), "steps": (100, 1500, 5000),
            "checks": (5, 25, 50), "hidden": ([32, 32], [64, 64], [64, 64]),
            "batch_size": 64, "lr": 0.001, "mean": (0.99, 0.998, 0.998), "generator_lr": 10.0,
        },
        "gan_variants": {"seconds": (9, 240, 4500), **GANS, "seeds": (1, 3, 3)},
        "latent_space": {"seconds": (4, 14, 60), **GANS, "compared": (100, 500, 2000)},
        "conditional_gan": {"seconds": (4, 20, 330), **GANS},
        "attention_from_scratch": {
            "seconds": (4, 4, 6),
            "seeds": (5, 20, 100), "sizes": [1, 4, 16, 64, 256, 1024], "places": 64,
        },
        "numpy_gpt": {
            "seconds": (6, 150, 1000),
            "seeds": (1, 1, 3), "text": "", "tokens": "characters", "vocabulary": 512,
            "layers": (2, 4, 4), "heads": (2, 4, 4), "width": (64, 128, 128),
            "context": (32, 64, 64), "dropout": 0.0, "batch_size": 12, "lr": (0.005, 0.003, 0.003),
            "epochs": (3, 8, 10), "steps": (40, 250, 500),  # of an epoch
            "written": 1000,  # tokens
        },
        "gpt": {"seconds": (5, 90, 2400), **TEXT, "written": (200, 500, 500)},
        "masked_language_model": {
            "seconds": (5, 55, 1500),
            "text": "", "tokens": "characters", "vocabulary": 512,
            "layers": (2, 2, 4), "heads": 4, "width": (32, 96, 128), "context": (32, 64, 64),
            "dropout": 0.0, "batch_size": 32, "lr": (0.015, 0.006, 0.004),
            "epochs": (2, 6, 20), "steps": (125, 250, 500),  # of an epoch
            "layers_on_gpu": (2, 6, 6), "heads_on_gpu": (4, 6, 6), "width_on_gpu": (32, 384, 384),
            "batch_size_on_gpu": (32, 64, 64), "lr_on_gpu": (0.015, 0.002, 0.002),
        },
        "attention_maps": {"seconds": (4, 9, 60), **TEXT, "texts": (8, 100, 300)},
        "toy_tasks": {
            "seconds": (5, 80, 3000),
            "tasks": (["reverse", "sort"], ["reverse", "sort", "add", "add_reversed"],
                      ["reverse", "sort", "add", "add_reversed"]),
            "positions": (["learned", "rotary"], ["learned", "sinusoidal", "rotary"],
                          ["learned", "sinusoidal", "rotary"]),
            "positions_of_sums": (["learned"], ["learned"], ["learned", "sinusoidal", "rotary"]),
            "seeds": (2, 3, 5), "layers": 2, "heads": 4, "width": (32, 48, 64),
            "longest": (2, 4, 10), "longest_of_sums": (1, 2, 4), "tested": (50, 200, 500),
            "batch_size": (32, 64, 64), "lr": 0.006, "epochs": (5, 10, 20), "steps": (20, 50, 125),
        },
        "sampling": {
            "seconds": (3, 9, 120), **TEXT, "prompts": (8, 24, 100), "length": (100, 200, 400),
            "temperatures": [0.3, 0.5, 0.7, 1.0, 1.3], "top_k": [2, 4, 8, 32],
            "top_p": [0.5, 0.8, 0.9, 0.95],
        },
    },
}
# fmt: on
