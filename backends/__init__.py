if __name__ != "qcompiler.backends":
    raise ImportError("import this package as 'qcompiler.backends'")
