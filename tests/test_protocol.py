"""The Jupyter project's own test of kernels, on ours."""

import unittest

import jupyter_kernel_test


class ProtocolTest(jupyter_kernel_test.KernelTests):
    kernel_name = "stemm"
    language_name = "rust"
    file_extension = ".rs"
    code_hello_world = 'println!("hello, world");'
    code_stderr = 'eprintln!("a warning");'
    completion_samples = [{"text": "std::string::Str", "matches": {"String"}}]
    complete_code_samples = ["1 + 1", "let x = vec![1, 2];", "fn f() -> i32 { 1 }", ":vars"]
    incomplete_code_samples = ["fn f() {", "let x = vec![1,", 'let s = "a', "/* comment"]
    invalid_code_samples = ["}", "f(]"]
    code_generate_error = "let a: i32 = None.unwrap();"
    code_execute_result = [{"code": "1 + 1", "result": "2"}, {"code": '"a"', "result": '"a"'}, {"code": "2 + 2", "result": "4"},
                           {"code": "1 + 1", "result": "2"}, {"code": "9 - 4", "result": "5"}]
    code_display_data = [{"code": "use stemm::prelude::*;\nshow(&1);", "mime": "text/plain"}]
    code_history_pattern = "*1 + 1*"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "std::string::String"
    code_clear_output = "stemm::clear_output(false);"


if __name__ == "__main__":
    unittest.main()
