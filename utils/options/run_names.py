"""What a run's folder is called."""

from utils.options.flags import Options

# The flags that the names of stage 2's folders spell out behind the released name.
SPELT_OUT = (
    *("augment", "select_on", "robust_weight", "as_released", "precision", "heldout_fraction"),
    *("margin_min", "margin_wd", "image_size", "normalisation", "stream", "accumulate", "sync_bn"),
    *("feat_layers", "robust_distance"),
)


def stage_1_name(options: Options) -> str:
    """The released name of a stage 1's folder."""
    parts = (
        options.dataset,
        options.arch,
        options.loss_type,
        options.train_rule,
        options.imb_type,
        options.imb_factor,
        options.exp_str,
    )
    return "_".join(map(str, parts))


def stage_2_name(options: Options) -> str:
    """The released name of a stage 2's folder, and our own flags where they are not at their
    defaults."""
    name = (
        f"robust_nepochs={options.epochs}_bs={options.batch_size}_temp={options.temperature}"
        f"_margin={options.margin}_type={options.margin_type}"
        f"_feat-{options.feat_loss}-{options.feat_sampler}-{options.feat_lr}"
        f"_cls-{options.cls_loss}-{options.cls_sampler}-{options.cls_lr}"
    )
    for flag in SPELT_OUT:
        if not options.is_at_default(flag):
            name += f"_{flag}={getattr(options, flag)}"
    return name
