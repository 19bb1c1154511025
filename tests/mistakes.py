"""What a user may get wrong, and the answer to it."""

import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _arguments(config, *fields, argument=""):
    return [f"--config={config}{argument}", *(f"--config.{field}" for field in fields)]


_smoke = functools.partial(_arguments, f"{ROOT}/configs/smoke.py")
_deit = functools.partial(_arguments, f"{ROOT}/configs/deit_t.py")


# What is wrong: the arguments, and what the answer must hold. Files are those of test_bad_input.
CASES = {
    # The command line.
    "no config": ([], "--config is missing; try --config=configs/vit_fashion.py"),
    "no such config": (["--config=gone.py"], "--config: no file gone.py"),
    "no such config behind a space": (["--config", "gone.py"], "--config: no file gone.py"),
    "no such weights at home": (
        _smoke("model.weights=~/gone.safetensors"),
        f"config.model.weights: no file {Path.home()}/gone.safetensors",
    ),
    "a config of almost that name": (
        [f"--config={ROOT}/configs/vit_fashio.py"],
        f"did you mean {ROOT}/configs/vit_fashion.py?",
    ),
    "a positional argument": ([*_smoke(), "now"], "unexpected argument 'now'"),
    "an unknown flag": ([*_smoke(), "--wrkdir=x"], "Unknown command line flag 'wrkdir'"),
    "half of the processes' flags": (
        [*_smoke(), "--num_processes=2"],
        "--coordinator, --num_processes and --process_id go together",
    ),
    "processes without a directory": ([*_smoke(), "--distributed"], "--workdir is missing"),
    "a coordinator without a port": (
        [
            *(*_smoke(), "--workdir=new", "--coordinator=localhost"),
            *("--num_processes=2", "--process_id=0"),
        ],
        "--coordinator must be HOST:PORT, got 'localhost'",
    ),
    "processes nobody tells of": (
        [*_smoke(), "--distributed", "--workdir=new"],
        "the environment does not tell which processes to join: give --coordinator, "
        "--num_processes and --process_id, or start on a TPU pod or by Slurm, GKE or Open MPI",
    ),
    # Config files and their arguments.
    "a folder for a config": ([f"--config={ROOT}/configs"], "configs is a folder, not a file"),
    "a config of broken Python": (["--config=syntax.py"], "invalid syntax (syntax.py, line 1)"),
    "a config that fails": (["--config=raises.py"], "error: no way"),
    "a config without get_config": (["--config=empty.py"], "has no attribute 'get_config'"),
    "an unknown argument": (_smoke(argument=":bits=3"), "unknown config argument 'bits'"),
    "an argument of text": (_smoke(argument=":w=three"), "w must be an integer, got 'three'"),
    "an argument without value": (_smoke(argument=":seed"), "seed must be an integer, got ''"),
    "an unknown preset": (_smoke(argument=":preset=good"), "unknown config argument preset 'good'"),
    "an unknown method": (_smoke(argument=":method=noize"), "did you mean 'noise'?"),
    # Fields.
    "an unknown field": (_smoke("samples.num_sample=3"), "did you mean 'num_samples'?"),
    "an unknown group": (_smoke("sample.num_samples=3"), "did you mean 'samples'?"),
    "a field of text": (
        _smoke("samples.num_samples=many"),
        "--config.samples.num_samples=many: invalid literal for int()",
    ),
    "a fraction of an image": (
        _smoke("samples.num_samples=1.5"),
        "--config.samples.num_samples=1.5: invalid literal for int()",
    ),
    "a negative seed": (_smoke("seed=-1"), "config.seed must not be negative, got -1"),
    "no samples": (_smoke("samples.num_samples=0"), "config.samples.num_samples must be positive"),
    "no steps": (_smoke("synthesis.num_steps=0"), "config.synthesis.num_steps must be positive"),
    "an empty batch": (_smoke("finetuning.batch_size=0"), "batch_size must be positive, got 0"),
    "a frozen temperature": (_smoke("finetuning.temperature=0."), "temperature must be positive"),
    "a ratio over 1": (_smoke("synthesis.initial_ratio=1.5"), "must be between 0 and 1, got 1.5"),
    "a negative number of epochs": (_smoke("finetuning.epochs=-2"), "must not be negative, got -2"),
    "a learning rate that is no number": (
        _smoke("synthesis.learning_rate=nan"),
        "config.synthesis.learning_rate must be a finite number, got nan",
    ),
    "an infinite weight": (
        _smoke("synthesis.weights.classes=inf"),
        "config.synthesis.weights.classes must be a finite number, got inf",
    ),
    "a negative weight": (_smoke("finetuning.block_weight=-1."), "must not be negative, got -1.0"),
    "a seed of many digits": (_smoke(f"seed={2**63}"), "config.seed must be at most 2147483647"),
    "more samples than programs count": (
        _smoke(f"samples.num_samples={10**13}"),
        "config.samples.num_samples must be at most 2147483647",
    ),
    "pixels without contrast": (
        _smoke("pixels.std=(0.3,0.0,0.3)"),
        "config.pixels.std[1] must be positive, got 0.0",
    ),
    "a shift out of the image": (
        _smoke("finetuning.view.shift=28"),
        "config.finetuning.view.shift must be smaller than the model's images of 28 pixels",
    ),
    "nine bits": (_smoke(argument=":w=9"), "weight_bits must be 2 to 8, or 32 for none, got 9"),
    "a single bit": (
        _smoke(argument=":a=1"),
        "activation_bits must be 2 to 8, or 32 for none, got 1",
    ),
    "an unknown optimizer": (_smoke("finetuning.optimizer=adm"), "did you mean 'adam'?"),
    "shares of step sizes without Adam": (
        _smoke("finetuning.optimizer=sgd"),
        "step_learning_rate is a share of the step sizes with 'adam' only",
    ),
    "steps of a whole step size": (
        _smoke("finetuning.step_learning_rate=1.0"),
        "step_learning_rate must be below 1",
    ),
    "nothing to optimise": (
        _smoke(
            *(
                f"synthesis.weights.{name}=0."
                for name in ("similarity", "classes", "total_variation", "coupling", "entropy")
            )
        ),
        "config.synthesis.weights are all 0",
    ),
    "MimiQ with coupling": (_smoke("method=mimiq"), "whose loss has no coupling"),
    # Models.
    "an unknown model": (_smoke("model.name=vit_tini"), "unknown config.model.name 'vit_tini'"),
    "an image size that does not divide": (
        _smoke("model.arguments.img_size=30"),
        "img_size must be a multiple of patch_size",
    ),
    "no heads": (_smoke("model.arguments.num_heads=0"), "num_heads must be 1 to 65536, got 0"),
    "no patch": (_smoke("model.arguments.patch_size=0"), "patch_size must be 1 to 65536, got 0"),
    "a model without end": (
        _smoke("model.arguments.depth=100000"),
        "depth must be 1 to 1000, got 100000",
    ),
    "heads that do not divide": (
        _smoke("model.arguments.num_heads=5"),
        "embed_dim must be a multiple of num_heads",
    ),
    "an argument of the model that the config lacks": (
        _smoke("model.arguments.in_chans=1"),
        "the config has no field 'in_chans': add it in the config file",
    ),
    "half a block": (["--config=half.py"], "config.model: depth must be an integer, got 2.5"),
    "a list of heads": (["--config=heads.py"], "num_heads must be an integer, got [2, 2]"),
    "no width": (["--config=width.py"], "mlp_ratio must be a number, got None"),
    "a width of nothing": (["--config=thin.py"], "make an MLP of 0 features, which must be 1 to"),
    "a width that is no number": (["--config=nan.py"], "mlp_ratio must be finite, got nan"),
    "an unknown dtype": (["--config=dtype.py"], "dtype must be 'float32' or 'bfloat16', got 'f33'"),
    "two channels": (["--config=two.py"], "config.model.arguments.in_chans must be 1 or 3, got 2"),
    "pixels of other channels": (
        ["--config=grey.py"],
        "config.pixels.mean must have a value for each of the model's 1 channels, got 3",
    ),
    "classes without a classifier": (
        _smoke("model.num_classes=0"),
        "config.synthesis.weights.classes must be 0",
    ),
    "class probabilities without a classifier": (
        _smoke("model.num_classes=0", "synthesis.weights.classes=0."),
        "output_distance must be 'cosine' or 'mse', got 'kl'",
    ),
    "a colour to be chosen without a classifier": (
        _smoke(
            "model.num_classes=0",
            "synthesis.weights.classes=0.",
            "finetuning.output_distance=cosine",
        ),
        "config.synthesis.background must be 'none', 'black' or 'white', got 'auto'",
    ),
    # Weights.
    "no weights": (_smoke("model.weights="), "config.model.weights is missing"),
    "a folder of weights": (_smoke("model.weights=images"), "images is a folder, not a file"),
    "no such weights": (_smoke("model.weights=gone.safetensors"), "no file gone.safetensors"),
    "truncated weights": (
        _smoke("model.weights=truncated.safetensors"),
        "truncated.safetensors is not a readable safetensors file",
    ),
    "no weights at all": (
        _smoke("model.weights=text.safetensors"),
        "text.safetensors is not a readable safetensors file",
    ),
    "weights that promise terabytes": (
        _smoke("model.weights=bomb.safetensors"),
        "bomb.safetensors is not a readable safetensors file",
    ),
    "weights that are not finite": (
        _smoke("model.weights=nan.safetensors"),
        "1 with NaN or infinite values: head.bias",
    ),
    "another model's weights": (
        _smoke("model.weights=swin.safetensors"),
        "The weights look like swin",
    ),
    "weights of one number": (
        _smoke("model.weights=scalar.safetensors"),
        "head.weight is (), expected (10, 64)",
    ),
    "weights without a channel": (
        _smoke("model.weights=hollow.safetensors"),
        "patch_embed.proj.weight is (64, 0, 4, 4)",
    ),
    "weights of other classes": (
        _smoke("model.weights=classes.safetensors"),
        "head.weight is (7, 64), expected (10, 64)",
    ),
    "a file of another kind": (
        _smoke("model.weights=weights.txt"),
        "weights.txt: expected a weight file ending in .safetensors, .pth, .pt or .bin",
    ),
    "a malformed hub address": (
        _smoke("model.weights=hf://nobody"),
        "config.model.weights: weights 'hf://nobody' should read hf://organisation/name",
    ),
    # Datasets.
    "an unknown dataset": (
        _smoke("evaluation.dataset=fashion"),
        "unknown config.evaluation.dataset 'fashion'",
    ),
    "an unknown split": (_smoke(argument=":split=tset"), "did you mean 'test'?"),
    "a dataset without split": (
        _deit("evaluation.dataset=tfds:imagenet2012", "model.weights=deit.safetensors"),
        "config.evaluation.split is missing",
    ),
    "images of another size": (
        _deit("evaluation.dataset=fashion_mnist", "evaluation.split=test"),
        "has images of 28 x 28 pixels and 10 classes; the model takes 224 x 224",
    ),
    "real images of another size": (
        _deit(argument=":method=real"),
        "of 28 x 28 pixels, but the model takes 224 x 224",
    ),
    "more real images than there are": (
        _smoke("samples.num_samples=5000", argument=":method=real"),
        "config.samples.num_samples is 5000, but only 1024 real images ship",
    ),
    "a crop of more than the image": (
        _deit("evaluation.preprocessing.crop_ratio=2.0"),
        "crop_ratio must be between 0 and 1, got 2.0",
    ),
    "no such folder": (
        _smoke("evaluation.dataset=folder", "evaluation.path=gone"),
        "config.evaluation.path: no folder 'gone'",
    ),
    "a folder without images": (
        _smoke("evaluation.dataset=folder", "evaluation.path=nothing"),
        "nothing holds no images",
    ),
    "a split that is not for evaluation": (
        _smoke(argument=":split=real"),
        "unknown config.evaluation.split 'real'",
    ),
    "a folder of other classes": (
        _smoke("evaluation.dataset=folder", "evaluation.path=images"),
        "images holds 2 class folders, but the model has 10 classes",
    ),
    "images none of which can be read": (
        _smoke("evaluation.dataset=folder", "evaluation.path=pointers"),
        "no evaluation image can be read: pointers/0/1.jpg: cannot identify image file",
    ),
    "no such labels": (
        _smoke(*("evaluation.dataset=folder", "evaluation.path=images", "evaluation.labels=gone")),
        "config.evaluation.labels: no file gone",
    ),
    "labels that do not fit": (
        _smoke(*("evaluation.dataset=folder", "evaluation.path=images", "evaluation.labels=list")),
        "list, line 2: expected an image's name and a label from 0 to 9, got 'n01/1.png seven'",
    ),
    # Work directories.
    "a work directory in a bucket": (
        [*_smoke(), "--workdir=gs://bucket/run"],
        "--workdir must be a directory, as a mounted bucket is; got 'gs://bucket/run'",
    ),
    "a work directory that is a file": ([*_smoke(), "--workdir=list"], "list is not a directory"),
    "a work directory below a file": ([*_smoke(), "--workdir=list/new"], "list is not a directory"),
    "a work directory that links to nothing": (
        [*_smoke(), "--workdir=dangling"],
        "dangling is not a directory",
    ),
    "a run of other weights": (
        [*_smoke(), "--workdir=weighed"],
        "holds a run of other weights than those that embedded:vit_fashion has now",
    ),
    "a record of weights that is damaged": (
        [*_smoke(), "--workdir=blank"],
        "blank/weights.json is not readable",
    ),
    "a work directory of other files": ([*_smoke(), "--workdir=images"], "name another --workdir"),
    "another run's directory": (
        [*_smoke(argument=":seed=1"), "--workdir=run"],
        "holds another run, which differs in",
    ),
    "a run's directory that is damaged": (
        [*_smoke(), "--workdir=damaged"],
        "damaged/config.json is not readable",
    ),
}
