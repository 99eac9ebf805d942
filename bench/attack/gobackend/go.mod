module attackvictim

go 1.19
