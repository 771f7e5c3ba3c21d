"""The helpers of the published API under the names that its scripts import; each lives in a module of its own."""

from really._utils.public import list_public as _list_public
from really.checkpoints.saved_models import all_subdirs_of
from really.data.datasets import dict_to_dataset, dict_to_dict_of_datasets
from really.data.returns import discount_cumsum

__all__ = ["all_subdirs_of", "dict_to_dataset", "dict_to_dict_of_datasets", "discount_cumsum"]

_list_public(globals())
