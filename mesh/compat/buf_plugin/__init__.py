"""The gate's rules as a check plugin of buf, so that `buf breaking` tells what they find.

buf runs a plugin for each call: arguments name the method, a request comes on stdin and its answer
goes to stdout (PluginRPC, protocol 1: https://github.com/pluginrpc/pluginrpc). The service is
buf.plugin.check.v1.CheckService (https://buf.build/bufbuild/bufplugin).
"""
