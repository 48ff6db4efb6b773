"""All that a launch imports on its way, and what MLflow looks up once a process: launches are
forked after it.
"""

from importlib import import_module

MODULES = (
    "suite.training.setup",
    "suite.training.joint",
    "suite.planning.measure",
    "suite.models.trained",
    "suite.launch",
    "suite.execution.ray_session",
    "suite.execution.tuner",
    "suite.sweep.__main__",
    "suite.visuals.gallery",
    "suite.system.torchvision_import",
    "sklearn.datasets",
    "rich._emoji_codes",
    "pandas.core.methods.to_dict",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.pytorch",
    "mlflow.pyfunc",
    "torch.export._trace",
    "torch._export.passes.replace_autocast_with_hop_pass",
    "torch._export.passes._node_metadata_hook",
    "torch._inductor.compiler_bisector",
    "torch._inductor.fx_passes",
    "torch._inductor.fx_passes.dedupe_symint_uses",
    "torch._inductor.ir",
    "torch._subclasses.schema_check_mode",
    "torch.fx.experimental.validator",
    "torch.utils.serialization",
    "sympy.combinatorics",
    "sympy.tensor.tensor",
    "mlflow.utils.requirements_utils",
)
for name in MODULES:
    import_module(name)
import_module("mlflow.utils.requirements_utils").warn_dependency_requirement_mismatches(["mlflow"])
