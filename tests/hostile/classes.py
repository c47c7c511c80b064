"""The classes of tries, by name: what hypothesis draws the cases of each from."""

from collections.abc import Callable

from hypothesis import strategies as st

from hostile.arguments import names, numbers, recipes
from hostile.leaks import hubs, links, markup, secrets
from hostile.models import code, records, templates, weights
from hostile.places import brackets, disks, inputs, outputs, races
from hostile.readings import pairs, predictions, problems, resumes
from hostile.sources import csv, packed, rows
from hostile.tries import Case

CLASSES: dict[str, Callable[[], st.SearchStrategy[Case]]] = {
    function.__name__: function
    for function in (
        *(
            numbers,
            names,
            recipes,
            rows,
            csv,
            packed,
            outputs,
            inputs,
            brackets,
            races,
            disks,
            weights,
            records,
            templates,
        ),
        *(code, predictions, pairs, problems, resumes, markup, secrets, links, hubs),
    )
}
