"""The Adam tab of TensorBoard.

``loader`` is what TensorBoard imports, and imports nothing of ours but the plugin's name; ``plugin`` answers the browser;
``series`` reads what the monitors wrote; ``tiles`` thins it out; ``static`` is the page, plain ES modules without a build.
"""
