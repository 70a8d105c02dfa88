# The tag that C++ exceptions are thrown with; wasm-ld expects one object to define it.
	.globl	__cpp_exception
	.tagtype	__cpp_exception i32
__cpp_exception:
