"""ProGuard guards inside other people's programs; each module needs the package that it is named
after. None of them answers "safe" for what was not judged.
"""
