#!/bin/sh
echo "I am fine."
