"""The skeleton of a site mapping: what an export holds that nobody knows yet, for a data steward to fill in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from gemel.core.concepts import Concept
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.account import needs_quantity
from gemel.data_adapters.meaning.code_systems import named_system, standard_code
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.mapping_entries import GENDERS
from gemel.data_adapters.meaning.units import COMMON_ALIASES, COUNT_ALIASES, find_conversion

MAX_SUGGESTED = 500
_HEAD = """\
# A site mapping for {name}: what this export holds that is not known yet.
# Take the "#" away from the lines that are right, correct the others, and give the file with --mapping.
# The concepts of the programme: {concepts}.
"""
_NO_CODE = ("", "text only")


def suggest(
    unmapped: Mapping[tuple[str, str], int],
    unit_problems: Mapping[tuple[str, str, str, str], int],
    programme: Programme,
    *,
    displays: Mapping[tuple[str, str], str] | None = None,
    genders: Mapping[str, int] | None = None,
) -> str:
    """A mapping file in TOML, every entry a comment until somebody has looked at it.

    Args:
        unmapped: Codes that no concept knows, by (system, code), with how often they occur.
        unit_problems: Values refused for their unit, by (code of the fault, concept, unit, reason), with how often.
        programme: The programme whose concepts are wanted.
        displays: What records call the codes, where they do.
        genders: Gender codes for which Patients are rejected, with how often.

    Returns:
        The file: codes most frequent first with candidates (never guesses: the same code under another name of its
        system, or a display that is the concept's title), then unit spellings and missing units by concept, then
        genders.
    """
    index = ConceptIndex(programme)
    concepts = ", ".join(concept.name for concept in programme.concepts)
    lines = [_HEAD.format(name=programme.name, concepts=concepts), "[codes]"]
    known = {key: number for key, number in unmapped.items() if key != _NO_CODE}
    for key in sorted(known, key=lambda key: (-known[key], key))[:MAX_SUGGESTED]:
        display = (displays or {}).get(key, "")
        candidates = _candidates(key, display, index, programme)
        target = " or ".join(candidates) or '"?"'
        note = f" ({display})" if display else ""
        lines.append(f"# {_quoted(_token(key))} = {target}  # {known[key]} times{_comment(note)}")
    if len(known) > MAX_SUGGESTED:
        lines.append(f"# ... and {len(known) - MAX_SUGGESTED} codes more, each less frequent.")
    lines += _unit_lines(unit_problems, programme)
    coded = {code: number for code, number in (genders or {}).items() if code}
    if coded:
        lines += ["", f"[genders]  # each is one of {', '.join(GENDERS)}"]
        lines += [f'# {_quoted(code)} = "?"  # {number} Patients' for code, number in coded.items()]
    return "\n".join(lines) + "\n"


def _candidates(key: tuple[str, str], display: str, index: ConceptIndex, programme: Programme) -> list[str]:
    """Targets that only the spelling separates from the code, as TOML values."""
    system_name, code = key
    # A version or a text may trail the code ("2085-9 v2.68", "2085-9^HDL").
    bare = re.split(r"[\s^|]", code.strip(), maxsplit=1)[0]
    named = named_system(system_name)
    systems = [named] if named is not None else _systems(programme.concepts) if not system_name else []
    found: dict[str, None] = {}
    for system in systems:
        if index.find(system, bare):
            found[_quoted(f"{system}|{standard_code(system, bare)}")] = None
    names = {_bare_text(text): concept.name for concept in programme.concepts for text in _texts(concept)}
    for text in (display, code):
        if (name := names.get(_bare_text(text))) is not None:
            found[_quoted(name)] = None
    return list(found)


def _systems(concepts: Iterable[Concept]) -> list[str]:
    return list(dict.fromkeys(code.system for concept in concepts for code in concept.codes))


def _texts(concept: Concept) -> tuple[str, str]:
    return concept.title, concept.name


def _bare_text(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).strip().casefold()


def _unit_lines(unit_problems: Mapping[tuple[str, str, str, str], int], programme: Programme) -> list[str]:
    units = {concept.name: concept.unit for concept in programme.concepts if concept.unit is not None}
    spellings: defaultdict[str, dict[str, int]] = defaultdict(dict)
    missing: defaultdict[str, int] = defaultdict(int)
    texts: defaultdict[str, int] = defaultdict(int)
    for (_, name, unit, reason), number in unit_problems.items():
        if needs_quantity(reason):
            texts[name] += number
        elif name in units and unit:
            spellings[name][unit] = spellings[name].get(unit, 0) + number
        elif name in units:
            missing[name] += number
    lines = []
    for name, problems in sorted(spellings.items()):
        lines += ["", f"[units_of.{name}]  # the concept's unit is {units[name]}"]
        for unit in sorted(problems, key=lambda unit: (-problems[unit], unit)):
            candidate = _unit_candidate(unit, programme.concept(name))
            lines.append(f"# {_quoted(unit)} = {_quoted(candidate)}  # {problems[unit]} times")
    if missing:
        lines += ["", "[default_units]  # of values without a unit: only if you know that all have the same"]
        for name in sorted(missing, key=lambda name: (-missing[name], name)):
            lines.append(f'# {name} = "?"  # {missing[name]} times; the concept\'s unit is {units[name]}')
    for name in sorted(texts, key=lambda name: (-texts[name], name)):
        lines += [
            "",
            f"# {name}: {texts[name]} values are texts or bare integers. No mapping can make them quantities.",
        ]
    return lines


def _unit_candidate(unit: str, concept: Concept) -> str:
    """The one known spelling that differs in capitals and blanks only, when it can be converted."""
    bare = re.sub(r"\s", "", unit).casefold()
    known = [*COMMON_ALIASES.items(), *COUNT_ALIASES.items()]
    known += [(ucum, ucum) for ucum in COMMON_ALIASES.values()]
    alike = {ucum for spelling, ucum in known if re.sub(r"\s", "", spelling).casefold() == bare}
    fitting = [ucum for ucum in sorted(alike) if find_conversion(ucum, concept) is not None]
    return fitting[0] if len(fitting) == 1 else "?"


def _token(key: tuple[str, str]) -> str:
    system, code = key
    return f"{system}|{code}" if system or "|" in code else code


def _quoted(text: str) -> str:
    """A text as TOML writes it: one line, whatever stands in it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
