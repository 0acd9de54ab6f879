# kvm-probe.S - the boot sector that vmprov-kvm-probe starts to find out whether an accelerator runs real guests.
#
# It goes the way of every ordinary kernel: real mode, protected mode, paging, long mode. Each step writes one letter to the
# debug console (port 0xe9): R, P, L. In long mode it writes through one virtual address, reads the value back through
# another one that maps the same page, writes "+", and ends QEMU by way of isa-debug-exit (port 0xf4):
#   value 0x2a  all steps done            QEMU exits with 85
#   value 0x01  the CPU has no long mode  QEMU exits with 3
#   value 0x02  paging gave a wrong value QEMU exits with 5
# Anything else (an abort, a reset, a hang) means that the accelerator cannot be used.
#
# kvm-probe.bin beside this file is made from it, with GNU binutils:
#   as --32 -o kvm-probe.o kvm-probe.S
#   ld -m elf_i386 --oformat binary -Ttext 0x7c00 -e start -o kvm-probe.bin kvm-probe.o

        .set    DEBUG, 0xe9
        .set    LEAVE, 0xf4
        .set    PML4, 0x1000
        .set    PDPT, 0x2000
        .set    PDIR, 0x3000

        .text
        .globl  start

        .code16
start:  cli
        cld
        ljmp    $0, $flat
flat:   xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movb    $'R', %al
        outb    %al, $DEBUG

        # Three empty tables, then one 2 MiB page seen at 0 and at 2 MiB.
        xorw    %ax, %ax
        movw    $PML4, %di
        movw    $0x1800, %cx
        rep     stosw
        movw    $PDPT + 3, PML4
        movw    $PDIR + 3, PDPT
        movw    $0x83, PDIR
        movw    $0x83, PDIR + 8

        lgdt    gdtr
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmp    $0x08, $prot

        .code32
prot:   movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movb    $'P', %al
        outb    %al, $DEBUG

        movl    $0x80000001, %eax
        cpuid
        btl     $29, %edx
        movb    $0x01, %al
        jnc     leave

        movl    %cr4, %eax
        orl     $0x20, %eax             # PAE
        movl    %eax, %cr4
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        orl     $0x100, %eax            # LME
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax       # PG
        movl    %eax, %cr0
        ljmp    $0x18, $long

leave:  outb    %al, $LEAVE
1:      hlt
        jmp     1b

        .code64
long:   movb    $'L', %al
        outb    %al, $DEBUG
        movabsq $0x766d70726f763634, %rbx
        movq    %rbx, 0x208000
        movb    $0x02, %al
        cmpq    %rbx, 0x8000
        jne     2f
        movb    $'+', %al
        outb    %al, $DEBUG
        movb    $0x2a, %al
2:      outb    %al, $LEAVE
3:      hlt
        jmp     3b

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # 0x08: 32-bit code
        .quad   0x00cf92000000ffff      # 0x10: data
        .quad   0x00af9a000000ffff      # 0x18: 64-bit code
gdtr:   .word   . - gdt - 1
        .long   gdt

        .org    510
        .word   0xaa55
