#!/bin/sh
echo "Two failures before me, and here I am."
