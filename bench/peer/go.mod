module dmapbench

go 1.19
