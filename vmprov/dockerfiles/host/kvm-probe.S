# kvm-probe.S - the boot sector that vmprov-kvm-probe starts to find out whether an accelerator runs real guests.
#
# It goes the way of every ordinary kernel and writes one letter to the debug console (port 0xe9) after each step:
#   R  real mode
#   P  protected mode
#   L  long mode, paging on
#   F  a page fault taken, the page mapped by the handler, the access repeated
#   +  user mode entered by sysret and left again by syscall
# It ends QEMU by way of isa-debug-exit (port 0xf4):
#   value 0x2a  all steps done            QEMU exits with 85
#   value 0x01  the CPU has no long mode  QEMU exits with 3
#   value 0x02  paging gave a wrong value QEMU exits with 5
# Anything else (an abort, a reset, a hang) means that the accelerator cannot be used.
#
# kvm-probe.bin beside this file is made from it, with GNU binutils:
#   as --64 -o kvm-probe.o kvm-probe.S
#   ld -m elf_x86_64 --oformat binary -Ttext 0x7c00 -e start -o kvm-probe.bin kvm-probe.o

        .set    DEBUG, 0xe9
        .set    LEAVE, 0xf4
        .set    PML4, 0x1000
        .set    PDPT, 0x2000
        .set    PDIR, 0x3000
        .set    IDT, 0x5000

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
        movw    $PDPT + 7, PML4
        movw    $PDIR + 7, PDPT
        movw    $0x87, PDIR
        movw    $0x87, PDIR + 8

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
        movl    $0x7c00, %esp
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
        orl     $0x101, %eax            # LME, SCE
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
        jne     wrong

        # A fault at 4 MiB, which the handler maps to the same page.
        movl    $fault + 0x180000, IDT + 14 * 16
        movl    $0x8e00, IDT + 14 * 16 + 4
        movq    $0, IDT + 14 * 16 + 8
        lidt    idtr
        movq    %rsp, 0x408008
        cmpq    %rsp, 0x8008
        jne     wrong
        movb    $'F', %al
        outb    %al, $DEBUG

        # To user mode and back.
        movl    $0xc0000081, %ecx       # STAR
        xorl    %eax, %eax
        movl    $0x00200018, %edx
        wrmsr
        incl    %ecx                    # LSTAR
        movl    $kernel, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $user, %ecx
        movl    $2, %r11d
        sysretq

user:   syscall

kernel: movb    $'+', %al
        outb    %al, $DEBUG
        movb    $0x2a, %al
        outb    %al, $LEAVE
2:      hlt
        jmp     2b

wrong:  movb    $0x02, %al
        outb    %al, $LEAVE
        jmp     2b

fault:  movl    $0x87, PDIR + 16
        addq    $8, %rsp
        iretq

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # 0x08: 32-bit code
        .quad   0x00cf92000000ffff      # 0x10: data
        .quad   0x00af9a000000ffff      # 0x18: 64-bit code
        .quad   0x00cf92000000ffff      # 0x20: data
        .quad   0x00cff2000000ffff      # 0x28: user data
        .quad   0x00affa000000ffff      # 0x30: user 64-bit code
gdtr:   .word   . - gdt - 1
        .long   gdt
idtr:   .word   15 * 16 - 1
        .quad   IDT

        .org    510
        .word   0xaa55
