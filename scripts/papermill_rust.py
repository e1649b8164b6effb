"""papermill with parameters in Rust: python scripts/papermill_rust.py INPUT.ipynb OUTPUT.ipynb -p epochs 20 -p rate 0.01

A cell tagged "parameters" holds the defaults (`let epochs = 10;`); papermill puts a cell with those given behind it. Needs
papermill: pip install papermill.
"""

from papermill.cli import papermill
from papermill.translators import Translator, papermill_translators


class RustTranslator(Translator):
    """Writes values as Rust does: text as `&'static str`, lists as vectors, nothing as `None`."""

    @classmethod
    def translate_none(cls, val):
        return "None::<()>"

    @classmethod
    def translate_bool(cls, val):
        return "true" if val else "false"

    @classmethod
    def translate_int(cls, val):
        return str(val) if -2**31 <= val < 2**31 else f"{val}i64"

    @classmethod
    def translate_float(cls, val):
        if val != val or val in (float("inf"), float("-inf")):
            return {"nan": "f64::NAN", "inf": "f64::INFINITY", "-inf": "f64::NEG_INFINITY"}[str(val)]
        return f"{val!r}f64"

    @classmethod
    def translate_escaped_str(cls, str_val):
        text = str(str_val).replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r")
        return f'"{text}"'  # Rust's texts may hold line ends

    @classmethod
    def translate_list(cls, val):
        return f"vec![{', '.join(cls.translate(item) for item in val)}]"

    @classmethod
    def translate_dict(cls, val):
        raise NotImplementedError("A parameter in Rust is a number, a text, a truth value or a list of these.")

    @classmethod
    def comment(cls, cmt_str):
        return f"// {cmt_str}".strip()

    @classmethod
    def assign(cls, name, str_val):
        return f"let {name} = {str_val};"


if __name__ == "__main__":
    papermill_translators.register("rust", RustTranslator)
    papermill()
