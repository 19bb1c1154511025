"""What a user may get wrong, and the answer to it: one table, in the order of a user's way."""

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
    "an empty config": (["--config="], "--config is missing; try --config=configs/vit_fashion.py"),
    "a field without a config": (["--config.seed=1"], "--config is missing; try --config=configs"),
    "a config that is a dict": (
        ["--config=dict.py"],
        "get_config returns dict, not an ml_collections.ConfigDict: start from that of configs/com",
    ),
    "a config that is nothing": (
        ["--config=none.py"],
        "get_config returns NoneType, not an ml_collections.ConfigDict",
    ),
    "a field of a config that is nothing": (
        ["--config=none.py", "--config.seed=1"],
        "get_config returns NoneType, not an ml_collections.ConfigDict",
    ),
    "a group for a field": (
        _smoke("evaluation=x"),
        "config.evaluation is a group of fields: name one of dataset, split, path, labels",
    ),
    "a cache that is a file": (
        [*_smoke(), "--compilation_cache=list"],
        "--compilation_cache: list can't be made: File exists",
    ),
    "no such config": (["--config=gone.py"], "--config: no file gone.py"),
    "no such config behind a space": (["--config", "gone.py"], "--config: no file gone.py"),
    "all samples held out": (
        _smoke("samples.held_out=32"),
        "config.samples.held_out is 32 of config.samples.num_samples=32",
    ),
    "no such weights at home": (
        _smoke("model.weights=~/gone.safetensors"),
        f"config.model.weights: no file {Path.home()}/gone.safetensors",
    ),
    "a config of almost that name": (
        [f"--config={ROOT}/configs/vit_fashio.py"],
        f"did you mean {ROOT}/configs/vit_fashion.py?",
    ),
    "a config of almost a name of ours": (
        ["--config=smok"],
        "no file smok: did you mean configs/smoke.py? (--list_configs lists those that ship)",
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
    "an argument given twice": (_smoke(argument=":w=3,w=4"), "config argument w is given twice"),
    "text for a number": (
        _smoke("finetuning.learning_rate=fast"),
        "config.finetuning.learning_rate must be a number, got 'fast'",
    ),
    "a misspelt name of embedded weights": (
        _smoke("model.weights=embedded:vit_fashon"),
        "unknown config.model.weights 'embedded:vit_fashon': did you mean 'embedded:vit_fashion'?",
    ),
    "an argument of text": (_smoke(argument=":w=three"), "w must be an integer, got 'three'"),
    "an argument without value": (_smoke(argument=":seed"), "seed must be an integer, got ''"),
    "an unknown preset": (_smoke(argument=":preset=good"), "unknown config argument preset 'good'"),
    "an unknown method": (_smoke(argument=":method=noize"), "did you mean 'noise'?"),
    # Fields.
    "an unknown field": (_smoke("samples.num_sample=3"), "did you mean 'num_samples'?"),
    "an unknown group": (_smoke("sample.num_samples=3"), "did you mean 'samples'?"),
    "a field of text": (
        _smoke("samples.num_samples=many"),
        "config.samples.num_samples must be an integer, got 'many'",
    ),
    "a fraction of an image": (
        _smoke("samples.num_samples=1.5"),
        "config.samples.num_samples must be an integer, got '1.5'",
    ),
    "a negative seed": (_smoke("seed=-1"), "config.seed must not be negative, got -1"),
    "no samples": (_smoke("samples.num_samples=0"), "config.samples.num_samples must be positive"),
    "no steps": (
        _smoke("synthesis.num_steps=-1"),
        "config.synthesis.num_steps must not be negative",
    ),
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
    "a rule that matches no layer": (
        _smoke("quantization.rules=head=8x8,blocks_9.mlp.fc2=4x8"),
        "config.quantization.rules: rule 'blocks_9.mlp.fc2=4x8' matches no layer: did you mean "
        "'blocks_3.mlp.fc2'?; there are patch_embed.proj, blocks_*.attn.qkv,",
    ),
    "rules that contradict each other": (
        _smoke("quantization.rules=*.fc2=4x8,blocks_0.*=8x8"),
        "rules '*.fc2=4x8' and 'blocks_0.*=8x8' contradict each other: both match "
        "blocks_0.mlp.fc2; there are patch_embed.proj",
    ),
    "a rule of nine bits": (
        _smoke("quantization.rules=head=4x9"),
        "rule 'head=4x9': activation_bits must be 2 to 8, or 32 for none, got 9",
    ),
    "a rule without bits": (
        _smoke("quantization.rules=head"),
        "rule 'head' must read PATTERN=WxA, as blocks_*.mlp.fc2=4x8",
    ),
    "a rule of half of its bits": (
        _smoke("quantization.rules=head=8"),
        "rule 'head=8': bits of weights and activations read like 4x8, got '8'",
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
    "two learning rates of weights": (
        _deit("finetuning.learning_rate=0.0001"),
        "learning_rate is 0.0001, but weights are trained by relative_learning_rate=0.001",
    ),
    "shares of weights without Adam": (
        _smoke(
            "finetuning.optimizer=sgd",
            "finetuning.step_learning_rate=0.0",
            "finetuning.learning_rate=0.001",
            "finetuning.relative_learning_rate=0.001",
        ),
        "relative_learning_rate is a share of the weights with 'adam' only",
    ),
    "steps that ask nothing of the model": (
        _smoke(
            *(
                f"synthesis.weights.{name}=0."
                for name in ("similarity", "classes", "coupling", "entropy")
            )
        ),
        "ask nothing of the model in 10 steps: set one of similarity, classes, coupling, entropy, "
        "or config.synthesis.num_steps to 0",
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
    "MimiQ with coupling": (
        _smoke("method=mimiq", "synthesis.weights.coupling=0.2"),
        "whose loss has no coupling: config.synthesis.weights.coupling must be 0, got 0.2",
    ),
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
    "classes of a single one": (
        _smoke("model.num_classes=1"),
        "config.model has a single class (num_classes is 1), so config.synthesis.weights.classes",
    ),
    "class probabilities of a single one": (
        _smoke("model.num_classes=1", "synthesis.weights.classes=0."),
        "config.finetuning.output_distance must be 'cosine' or 'mse', got 'kl'",
    ),
    "a pooling that there isn't": (
        ["--config=pool.py"],
        "global_pool must be one of token, avg, map, got 'cls'",
    ),
    "no token to pool": (["--config=tokenless.py"], "class_token=False leaves no token to pool"),
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
    "weights named as on a web page": (
        _smoke("model.weights=https://huggingface.co/facebook/deit-tiny-patch16-224"),
        "config.model.weights: weights of the Hugging Face hub are named "
        "hf://facebook/deit-tiny-patch16-224",
    ),
    "weights named as transformers does": (
        _smoke("model.weights=facebook/deit-tiny-patch16-224"),
        "if it is of the Hugging Face hub, name it hf://facebook/deit-tiny-patch16-224",
    ),
    "a pointer in the place of weights": (
        _smoke("model.weights=pointer.safetensors"),
        "pointer.safetensors can't be read: this is a Git LFS pointer",
    ),
    "a folder without weights": (
        _smoke("model.weights=nothing"),
        "nothing is a folder, not a file, and holds no weights, such as model.safetensors",
    ),
    "a key that the weights lack": (
        _smoke("model.weights=deit.safetensors", "model.weights_key=teacher"),
        "has no names below config.model.weights_key 'teacher'; they start with blocks, cls_token",
    ),
    "weights of two models": (
        _smoke("model.weights=two.safetensors"),
        "several models, below 'student', 'teacher': config.model.weights_key takes one",
    ),
    "weights of another mechanism": (
        _smoke("model.weights=swin2.safetensors"),
        "its names are those of a Swin V2",
    ),
    "a classifier on top of a pooler": (
        _smoke("model.weights=pooled.safetensors"),
        "its classifier reads a layer behind the class token's norm (pooler.dense.weight)",
    ),
    "a classifier of one of two tokens": (
        _smoke("model.weights=one.safetensors"),
        "it has a distillation token and no classifier of it (head_dist)",
    ),
    "weights that look like another architecture's": (
        _smoke("model.weights=rpn"),
        "they are of the architecture 'vit_base_patch16_rpn_224', which computes otherwise",
    ),
    "weights of another activation": (
        _smoke("model.weights=said"),
        "hidden_act is 'relu' there, the model has act_layer='gelu': set "
        "config.model.arguments.act_layer='relu'",
    ),
    "pixels prepared otherwise": (
        _smoke("model.weights=prepared"),
        "config.pixels.mean is (0.286, 0.286, 0.286), should be (0.5, 0.5, 0.5)",
    ),
    "pictures resized otherwise": (
        _smoke("model.weights=squashed", "evaluation.dataset=folder", "evaluation.path=tens"),
        "config.evaluation.preprocessing.resize is 'shorter', should be 'squash'",
    ),
    # Datasets.
    "no folder of evaluation images": (
        _smoke("evaluation.dataset=folder"),
        "config.evaluation.path is missing: name a folder",
    ),
    "a file for a folder": (
        _smoke("evaluation.dataset=folder", "evaluation.path=list"),
        "config.evaluation.path: list is a file, not a folder",
    ),
    "an unknown dataset with a path": (
        _smoke("evaluation.dataset=cocoo", "evaluation.path=images"),
        "unknown config.evaluation.dataset 'cocoo': did you mean 'coco'?",
    ),
    "an unknown dataset": (
        _smoke("evaluation.dataset=fashion"),
        "unknown config.evaluation.dataset 'fashion'",
    ),
    "boxes for a classifier": (
        _smoke("evaluation.dataset=coco", "evaluation.path=images", "evaluation.labels=list"),
        "config.evaluation.dataset 'coco' has boxes, for detection, but the model's task is "
        "classification",
    ),
    "label maps for a classifier": (
        _smoke("evaluation.dataset=ade20k", "evaluation.path=images", "evaluation.labels=tens"),
        "config.evaluation.dataset 'ade20k' has label maps, for segmentation, but the model's task "
        "is classification",
    ),
    "scenes for a classifier": (
        _smoke("evaluation.dataset=scenes"),
        "has boxes and label maps, for detection and segmentation, but the model's task is",
    ),
    "boxes that are read by nobody": (
        _smoke("evaluation.labels=list"),
        "config.evaluation.labels is set, but config.evaluation.dataset 'fashion_mnist' does not "
        "read it: set that to 'folder', or to one of coco, ade20k, label_maps",
    ),
    "a picture that is fitted and cropped": (
        _deit("evaluation.preprocessing.resize=fit"),
        "config.evaluation.preprocessing: resize 'fit' keeps the whole picture, so crop_ratio must",
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
    "a folder whose classes a system made": (
        _smoke("evaluation.dataset=folder", "evaluation.path=synced"),
        "folders that are no classes are passed over: @eaDir",
    ),
    "a list of some classes": (
        _smoke(
            *("evaluation.dataset=folder", "evaluation.path=images"),
            *("evaluation.order=file", "evaluation.labels=classes"),
        ),
        "classes lists 2 classes in their order, but the model has 10",
    ),
    "a folder of other classes": (
        _smoke("evaluation.dataset=folder", "evaluation.path=images"),
        "images holds 2 class folders, but the model has 10 classes",
    ),
    "splits for classes": (
        _smoke("evaluation.dataset=folder", "evaluation.path=splits"),
        "splits holds train, val, which are splits of a dataset, not classes: name the folder of "
        "one, as splits/val",
    ),
    "splits for classes of a file": (
        _smoke(
            *("evaluation.dataset=folder", "evaluation.path=splits"),
            *("evaluation.order=file", "evaluation.labels=list"),
        ),
        "list names no class folder 'train': splits holds train, val, which are splits",
    ),
    "a stranger among numbers": (
        _smoke("evaluation.dataset=folder", "evaluation.path=strange"),
        "strange holds class folders named by numbers, as 0, and others, as old: move away what",
    ),
    "numbers that are no labels": (
        _smoke("evaluation.dataset=folder", "evaluation.path=gaps"),
        "but the labels of 10 classes are 0 to 9: move away what is no class",
    ),
    "folders of some classes": (
        _smoke("evaluation.dataset=folder", "evaluation.path=images"),
        "or folders of some of the classes with config.evaluation.order='file', where",
    ),
    "images none of which can be read": (
        _smoke("evaluation.dataset=folder", "evaluation.path=pointers"),
        "no evaluation image can be read: pointers/0/1.jpg: this is a Git LFS pointer",
    ),
    "no such labels": (
        _smoke(*("evaluation.dataset=folder", "evaluation.path=images", "evaluation.labels=gone")),
        "config.evaluation.labels: no file gone",
    ),
    "labels that do not fit": (
        _smoke(*("evaluation.dataset=folder", "evaluation.path=images", "evaluation.labels=list")),
        "list, line 2: expected an image's name and a label from 0 to 9, got 'n01/1.png seven'",
    ),
    "class folders in an order that needs a file": (
        _smoke("evaluation.dataset=folder", "evaluation.path=images", "evaluation.order=file"),
        "config.evaluation.order is 'file', which needs config.evaluation.labels",
    ),
    "class folders in no order": (
        _smoke("evaluation.dataset=folder", "evaluation.path=images", "evaluation.order=names"),
        "unknown config.evaluation.order 'names': did you mean 'name'?",
    ),
    "an order of embedded images": (
        _smoke("evaluation.order=name"),
        "config.evaluation.dataset 'fashion_mnist' has no class folders",
    ),
    "a resizing that there isn't": (
        _smoke("evaluation.preprocessing.resize=squish"),
        "did you mean 'squash'?",
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

# The same of `maskaq_jax.export`; files are those of tests/export/test_command.py.
EXPORT_CASES = {
    "no run": ([], "the following arguments are required: --workdir"),
    "no such run": (["--workdir=gone"], "no finished run in gone: there is no results.json"),
    "a run that is not finished": (
        ["--workdir=unfinished"],
        "no finished run in unfinished: there is no results.json (a stopped run continues when",
    ),
    "a file that is there": (
        ["--workdir=run", "--out=here.onnx"],
        "here.onnx exists already: name another --out, or remove it",
    ),
    "no such folder": (
        ["--workdir=run", "--out=gone/model.onnx"],
        "gone/model.onnx can't be written: there is no directory gone",
    ),
    "a file for a folder": (
        ["--workdir=run", "--out=here.onnx/model.onnx"],
        "there is no directory here.onnx",
    ),
    "a file of no format": (
        ["--workdir=run", "--out=model.gguf"],
        "model.gguf ends as no file of ours: name one of onnx, safetensors, litert by --format, or "
        "end it in .onnx, .safetensors, .tflite",
    ),
    "a file named as another format's": (
        ["--workdir=run", "--out=model.tflite", "--format=onnx"],
        "model.tflite ends as a file of litert, and --format is onnx: leave --format out, or end",
    ),
    "a format that there isn't": (["--workdir=run", "--format=gguf"], "invalid choice: 'gguf'"),
    "an input that there isn't": (["--workdir=run", "--input=jpeg"], "invalid choice: 'jpeg'"),
    "an unknown flag": (["--workdir=run", "--bits=3"], "unrecognized arguments: --bits=3"),
    "pixels of packed codes": (
        ["--workdir=run", "--format=safetensors", "--input=pixels"],
        "input_name (--input) 'pixels' is of files for runtimes, not of safetensors: leave it out",
    ),
    "layers of packed codes": (
        ["--workdir=run", "--out=model.safetensors", "--check"],
        "--check is of --format=onnx, not of safetensors",
    ),
    "layers of a file without names": (
        ["--workdir=run", "--out=model.tflite", "--check"],
        "--check is of --format=onnx, not of litert",
    ),
}
