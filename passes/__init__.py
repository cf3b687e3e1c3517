if __name__ != "qcompiler.passes":
    raise ImportError("import this package as 'qcompiler.passes'")
